# @summary Identity: Keystone behind the proxies.
#
# The elected node makes the database, the first users and the endpoints, and publishes where identity is
# found; every control node has the same keys and serves.
#
# @param identity_key where the URL is published
class stacktira::profile::keystone (
  Pattern[/\Astacktira\//] $identity_key = 'stacktira/identity/url',
) {
  include stacktira::openstack
  include stacktira::openstack::control

  $primary = $stacktira::openstack::primary
  $endpoint = stacktira::openstack::endpoint(5000)
  $admin_password = lookup('admin_password')

  if $primary {
    class { 'keystone::db::mysql': * => stacktira::openstack::database('keystone') }
  }
  class { 'keystone::db': database_connection => stacktira::openstack::database_url('keystone') }
  class { 'keystone': sync_db => $primary }
  include keystone::wsgi::uwsgi
  Package['python3-pymysql'] -> Anchor['keystone::dbsync::begin']

  if $primary {
    class { 'keystone::bootstrap':
      bootstrap    => $stacktira::openstack::control::configure,
      password     => $admin_password,
      region       => $stacktira::openstack::region,
      admin_url    => $endpoint,
      public_url   => $endpoint,
      internal_url => $endpoint,
    }
  }

  stacktira::openstack::follower { 'keystone': }

  # Registered before it answers: the check keeps it out of the proxies until it does, and they follow at once.
  stacktira::service { 'keystone':
    port   => 5000,
    tags   => ['haproxy::balanced'],
    check  => { 'http' => "http://${stacktira::address}:5000/v3", 'interval' => '5s', 'timeout' => '5s' },
    before => Anchor['keystone::service::end'],
  }
  Exec['stacktira: consul reload'] -> Anchor['keystone::service::end']

  # One variable a line: Puppet's OpenStack providers read this file line by line.
  $openrc = {
    'OS_AUTH_URL'             => "${endpoint}/v3",
    'OS_USERNAME'             => 'admin',
    'OS_PASSWORD'             => $admin_password,
    'OS_PROJECT_NAME'         => 'admin',
    'OS_USER_DOMAIN_NAME'     => 'Default',
    'OS_PROJECT_DOMAIN_NAME'  => 'Default',
    'OS_REGION_NAME'          => $stacktira::openstack::region,
    'OS_IDENTITY_API_VERSION' => '3',
  }
  $lines = $openrc.map |$name, $value| { "export ${name}=${value}\n" }
  file { '/root/openrc':
    ensure    => file,
    owner     => 'root',
    group     => 'root',
    mode      => '0600',
    content   => $lines.join(''),
    show_diff => false,
  }

  if $primary {
    stacktira_kv { $identity_key:
      value   => "${endpoint}/v3",
      require => Class['keystone::bootstrap'],
    }
  }
}
