# @summary Identity: Keystone behind the proxies.
#
# The node that is elected for the role makes the database, the first users and the endpoints, and publishes
# where identity is found. Another node of the role is refused: what it would have to share is secret.
#
# @param region name of the region
class stacktira::profile::keystone (
  String $region = 'RegionOne',
) {
  include stacktira

  $node = $facts['networking']['hostname']
  $leader = stacktira::leader('control')
  $endpoint = "http://${stacktira::vip}:5000"
  $database_password = stacktira::secret('keystone_database')
  $admin_password = stacktira::secret('keystone_admin')

  if $leader != $node {
    fail("${leader} is elected for the role control; a second control node needs keys and passwords that are not shared yet")
  }

  class { 'keystone::db::mysql':
    password      => $database_password,
    host          => $stacktira::address,
    allowed_hosts => [regsubst($stacktira::address, '\.[0-9]+\z', '.%')],
    # The server's own name for it: with any other the resource would change the database in each run.
    charset       => 'utf8mb3',
    collate       => 'utf8mb3_general_ci',
  }
  class { 'keystone::db':
    database_connection => "mysql+pymysql://keystone:${database_password}@${stacktira::address}/keystone",
  }
  class { 'keystone':
    sync_db                      => true,
    enable_fernet_setup          => true,
    enable_credential_setup      => true,
    enable_proxy_headers_parsing => true,
  }
  include keystone::wsgi::uwsgi
  ensure_packages(['python3-pymysql'])
  Package['python3-pymysql'] -> Anchor['keystone::dbsync::begin']

  class { 'keystone::bootstrap':
    bootstrap    => true,
    password     => $admin_password,
    region       => $region,
    admin_url    => $endpoint,
    public_url   => $endpoint,
    internal_url => $endpoint,
  }

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
    'OS_REGION_NAME'          => $region,
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

  stacktira_kv { 'hiera/common/stacktira::identity_url':
    value   => "${endpoint}/v3",
    require => Class['keystone::bootstrap'],
  }
}
