# @summary A hypervisor: Nova's compute service with libvirt, and Neutron's agent.
#
# Everything is installed and configured at once, beside the control plane; only the service that cannot start
# without a conductor, Placement and Keystone waits for them.
#
# @param wait how many seconds a run waits for the control plane
class stacktira::profile::compute (
  Integer $wait = 900,
) {
  include stacktira::openstack
  include stacktira::openstack::nova
  include nova::compute
  include nova::compute::libvirt
  include stacktira::openstack::neutron

  stacktira_wait { ['service:rabbitmq', 'service:keystone', 'service:placement', 'service:nova-conductor']:
    timeout => $wait,
    require => Anchor['nova::config::end'],
    before  => Anchor['nova::service::begin'],
  }

  # In a container libvirt finds control groups that it may not use. A mount namespace for each guest begins at the root of
  # the container's own, which is another one where the container was started below a chroot.
  if $facts['virtual'] in ['systemd_nspawn', 'lxc', 'docker', 'podman'] {
    ['cgroup_controllers', 'namespaces'].each |$setting| {
      file_line { "libvirt: no ${setting}":
        path    => '/etc/libvirt/qemu.conf',
        line    => "${setting} = [ ]",
        require => Package['libvirt'],
        notify  => Service['libvirt'],
      }
    }
  }
}
