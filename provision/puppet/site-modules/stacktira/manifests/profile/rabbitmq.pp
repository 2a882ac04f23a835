# @summary Messages between OpenStack's services, on the elected control node.
#
# @param user whom the services come as
class stacktira::profile::rabbitmq (
  Pattern[/\A[a-z]+\z/] $user = 'openstack',
) {
  include stacktira::openstack

  if $stacktira::openstack::primary {
    class { 'rabbitmq': node_ip_address => $stacktira::address }

    rabbitmq_user { $user:
      password => lookup('rabbitmq_password'),
      provider => 'rabbitmqctl',
      require  => Class['rabbitmq'],
    }
    rabbitmq_user_permissions { "${user}@/":
      configure_permission => '.*',
      write_permission     => '.*',
      read_permission      => '.*',
      provider             => 'rabbitmqctl',
      require              => Class['rabbitmq'],
    }
    # Whoever uses messages starts after they can be sent.
    Rabbitmq_user_permissions["${user}@/"] -> Anchor <| title == 'nova::service::begin' or title == 'neutron::service::begin' |>

    stacktira::service { 'rabbitmq':
      port  => 5672,
      tags  => ['messages'],
      check => { 'tcp' => "${stacktira::address}:5672", 'interval' => '5s', 'timeout' => '2s' },
    }
  }
}
