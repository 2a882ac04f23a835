# @summary The control plane of networks: Neutron behind the proxies.
class stacktira::profile::neutron {
  include stacktira::openstack
  include stacktira::openstack::control
  include stacktira::openstack::neutron

  if $stacktira::openstack::primary {
    class { 'neutron::db::mysql': * => stacktira::openstack::database('neutron') }
  }
  class { 'neutron::db': database_connection => stacktira::openstack::database_url('neutron') }
  stacktira::openstack::identity { 'neutron': port => 9696 }
  class { 'neutron::keystone::authtoken': * => stacktira::openstack::authtoken('neutron') }
  class { 'neutron::server': sync_db => $stacktira::openstack::primary }
  include neutron::wsgi::uwsgi
  include neutron::server::notifications
  class { 'neutron::server::notifications::nova':
    password    => lookup('nova_password'),
    auth_url    => $stacktira::openstack::auth_url,
    region_name => $stacktira::openstack::region,
  }
  include neutron::plugins::ml2

  stacktira::openstack::follower { 'neutron': service => 'neutron-server' }

  stacktira::service { 'neutron-server':
    port  => 9696,
    tags  => ['haproxy::balanced'],
    check => { 'http' => "http://${stacktira::address}:9696/", 'interval' => '5s', 'timeout' => '5s' },
  }
}
