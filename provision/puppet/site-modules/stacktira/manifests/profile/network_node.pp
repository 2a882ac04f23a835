# @summary Routers, addresses and metadata for servers: Neutron's agents.
class stacktira::profile::network_node {
  include stacktira::openstack::neutron

  include neutron::agents::dhcp
  include neutron::agents::l3
  class { 'neutron::agents::metadata':
    shared_secret => lookup('metadata_shared_secret'),
    metadata_host => $stacktira::openstack::several ? { true => $stacktira::vip, default => $stacktira::openstack::leader_address },
  }
}
