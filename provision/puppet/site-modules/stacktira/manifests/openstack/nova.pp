# @summary Nova's settings that control nodes and hypervisors share.
class stacktira::openstack::nova {
  include stacktira::openstack

  class { 'nova':
    default_transport_url => stacktira::openstack::transport_url(),
    my_ip                 => $stacktira::address,
  }
  class { 'nova::placement':
    password    => lookup('placement_password'),
    auth_url    => $stacktira::openstack::auth_url,
    region_name => $stacktira::openstack::region,
  }
  class { 'nova::network::neutron':
    password    => lookup('neutron_password'),
    auth_url    => $stacktira::openstack::auth_url,
    region_name => $stacktira::openstack::region,
  }
  class { 'nova::glance': endpoint_override => stacktira::openstack::endpoint(9292) }
}
