# @summary Neutron's settings that network nodes and hypervisors share: tunnels between the inside addresses.
class stacktira::openstack::neutron {
  include stacktira::openstack

  class { 'neutron':
    default_transport_url => stacktira::openstack::transport_url(),
    bind_host             => $stacktira::address,
  }
  class { 'neutron::agents::ml2::linuxbridge': local_ip => $stacktira::address }
  # The driver is called experimental since Zed, and wants to be asked for by name. No class has a parameter for it.
  neutron_config { 'experimental/linuxbridge': value => true }
}
