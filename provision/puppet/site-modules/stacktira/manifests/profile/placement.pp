# @summary What the hypervisors have to give: Placement behind the proxies.
class stacktira::profile::placement {
  include stacktira::openstack
  include stacktira::openstack::control

  if $stacktira::openstack::primary {
    class { 'placement::db::mysql': * => stacktira::openstack::database('placement') }
    include placement::db::sync
  }
  stacktira::openstack::identity { 'placement': port => 8778 }
  class { 'placement::keystone::authtoken': * => stacktira::openstack::authtoken('placement') }
  class { 'placement::db': database_connection => stacktira::openstack::database_url('placement') }
  class { 'placement': sync_db => $stacktira::openstack::primary }
  include placement::api
  include placement::wsgi::uwsgi
  stacktira::openstack::follower { 'placement': }
  ensure_packages(['python3-osc-placement'])

  stacktira::service { 'placement':
    port  => 8778,
    tags  => ['haproxy::balanced'],
    check => { 'http' => "http://${stacktira::address}:8778/", 'interval' => '5s', 'timeout' => '5s' },
  }
}
