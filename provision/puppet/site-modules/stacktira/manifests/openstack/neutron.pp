# @summary Neutron's settings that network nodes and hypervisors share: tunnels between the inside addresses.
#
# @param mechanism what connects servers: the release of OpenStack decides
class stacktira::openstack::neutron (
  Enum['linuxbridge', 'openvswitch'] $mechanism,
) {
  include stacktira::openstack

  class { 'neutron':
    default_transport_url => stacktira::openstack::transport_url(),
    bind_host             => $stacktira::address,
  }
  if $mechanism == 'linuxbridge' {
    class { 'neutron::agents::ml2::linuxbridge': local_ip => $stacktira::address }
    # The driver is called experimental since Zed, and wants to be asked for by name. No class has a parameter for it.
    neutron_config { 'experimental/linuxbridge': value => true }
  } else {
    class { 'neutron::agents::ml2::ovs': local_ip => $stacktira::address }
  }
}
