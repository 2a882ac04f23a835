# @summary Images: Glance behind the proxies, with its files on this node.
class stacktira::profile::glance {
  include stacktira::openstack
  include stacktira::openstack::control

  if $stacktira::openstack::primary {
    class { 'glance::db::mysql': * => stacktira::openstack::database('glance') }
  }
  stacktira::openstack::identity { 'glance': port => 9292 }
  include glance
  class { 'glance::api::authtoken': * => stacktira::openstack::authtoken('glance') }
  class { 'glance::api::db': database_connection => stacktira::openstack::database_url('glance') }
  class { 'glance::api':
    bind_host => $stacktira::address,
    sync_db   => $stacktira::openstack::primary,
  }
  include glance::wsgi::uwsgi
  glance::backend::multistore::file { 'file':
    filesystem_store_datadir => '/var/lib/glance/images/',
  }

  stacktira::openstack::follower { 'glance': service => 'glance-api' }

  # Glance's / answers 300, which is no pass.
  stacktira::service { 'glance-api':
    port  => 9292,
    tags  => ['haproxy::balanced'],
    # The images are files of the elected node: another is asked while it is away, and knows of them at least.
    meta  => $stacktira::openstack::primary ? { true => {}, default => { 'haproxy_backup' => 'yes' } },
    check => { 'http' => "http://${stacktira::address}:9292/healthcheck", 'interval' => '5s', 'timeout' => '5s' },
  }
}
