# @summary Messages between OpenStack's services: on the elected control node, or on every one where there are several.
#
# Several are one cluster with mirrored queues. The others start when the elected node's answers, find it by name and
# join; so a cluster is formed once.
#
# @param user whom the services come as
# @param wait how many seconds a run waits for a broker that it can join
class stacktira::profile::rabbitmq (
  Pattern[/\A[a-z]+\z/] $user = 'openstack',
  Integer $wait = 900,
) {
  include stacktira::openstack

  $several = $stacktira::openstack::several
  $primary = $stacktira::openstack::primary
  if $several {
    class { 'rabbitmq':
      node_ip_address            => $stacktira::address,
      config_cluster             => true,
      cluster_nodes              => $stacktira::openstack::controls.keys.sort,
      cluster_partition_handling => 'autoheal',
      erlang_cookie              => lookup('rabbitmq_cookie'),
      wipe_db_on_cookie_change   => true,
    }
    unless $primary {
      stacktira_wait { 'service:rabbitmq':
        timeout => $wait,
        require => Class['rabbitmq::config'],
        before  => Class['rabbitmq::service'],
      }
    }
  } elsif $primary {
    class { 'rabbitmq': node_ip_address => $stacktira::address }
  }

  if $primary {
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
    if $several {
      rabbitmq_policy { 'mirrored@/':
        pattern    => '^(?!amq\.).*',
        applyto    => 'queues',
        definition => { 'ha-mode' => 'all' },
        provider   => 'rabbitmqctl',
        require    => Class['rabbitmq'],
      }
    }
  } elsif $several {
    Class['rabbitmq'] -> Anchor <| title == 'nova::service::begin' or title == 'neutron::service::begin' |>
  }

  if $primary or $several {
    stacktira::service { 'rabbitmq':
      port  => 5672,
      tags  => ['messages'],
      check => { 'tcp' => "${stacktira::address}:5672", 'interval' => '5s', 'timeout' => '2s' },
    }
  }
}
