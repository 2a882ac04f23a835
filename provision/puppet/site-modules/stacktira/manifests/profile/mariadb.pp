# @summary The database of the control plane: on the elected node, or on every control node where there are several.
#
# The administrator comes in by the socket, as root of this machine; there is no password of his to keep.
#
# Several are one Galera cluster. The elected node forms it, once, and says so in Consul; the others wait for that
# and join with a copy of its data. A vote of the arbitrator's lets the half that still sees it go on.
#
# @param options further settings of the server's section [mysqld]
# @param formed_key where it is recorded who formed the cluster
# @param wait how many seconds a run waits for a cluster that it can join
class stacktira::profile::mariadb (
  Hash $options = {},
  Pattern[/\Astacktira\//] $formed_key = 'stacktira/database/formed',
  Integer $wait = 900,
) {
  include stacktira::openstack

  $several = $stacktira::openstack::several
  $primary = $stacktira::openstack::primary
  $cluster = $several ? {
    true    => {
      'wsrep_on'                 => 'ON',
      'wsrep_provider'           => '/usr/lib/galera/libgalera_smm.so',
      'wsrep_cluster_name'       => 'stacktira',
      'wsrep_cluster_address'    => "gcomm://${stacktira::openstack::controls.values.sort.join(',')}",
      'wsrep_node_name'          => $facts['networking']['hostname'],
      'wsrep_node_address'       => $stacktira::address,
      'wsrep_sst_method'         => 'rsync',
      # What was written through another node is seen by the next read through this one.
      'wsrep_sync_wait'          => '1',
      'wsrep_provider_options'   => '"gcache.size=64M"',
      'binlog_format'            => 'ROW',
      'default_storage_engine'   => 'InnoDB',
      'innodb_autoinc_lock_mode' => '2',
    },
    default => {},
  }

  if $primary or $several {
    class { 'mysql::server':
      package_name            => 'mariadb-server',
      service_name            => 'mariadb',
      remove_default_accounts => $primary,
      # A restart of one that is alone for the moment would be the end of the cluster.
      restart                 => !$several,
      override_options        => {
        'mysqld' => {
          'bind-address'            => $stacktira::address,
          'innodb_buffer_pool_size' => '64M',
          'max_connections'         => '500',
          'log-error'               => undef,
          'ssl'                     => undef,
          'ssl-ca'                  => undef,
          'ssl-cert'                => undef,
          'ssl-key'                 => undef,
          'ssl-disable'             => undef,
        } + $cluster + $options,
      },
    }
    class { 'mysql::client': package_name => 'mariadb-client' }

    stacktira::service { 'mysql':
      port  => 3306,
      tags  => ['database'],
      check => { 'tcp' => "${stacktira::address}:3306", 'interval' => '5s', 'timeout' => '2s' },
    }
  }

  if $several {
    if $primary and stacktira::kv($formed_key) =~ Undef {
      # Not twice: a second cluster of the same name would have other data.
      exec { 'stacktira: form the database cluster':
        # Nobody can have joined one that is not recorded: what an attempt that was cut off left is no other's data.
        command  => 'sed -i "s/^safe_to_bootstrap: 0/safe_to_bootstrap: 1/" grastate.dat 2>/dev/null; galera_new_cluster',
        cwd      => '/var/lib/mysql',
        path     => ['/usr/bin', '/bin'],
        provider => shell,
        unless   => 'systemctl is-active --quiet mariadb',
        require  => [Class['mysql::server::config'], Class['mysql::server::installdb']],
        before   => Class['mysql::server::service'],
      }
      stacktira_kv { $formed_key:
        value   => $facts['networking']['hostname'],
        require => Class['mysql::server::service'],
      }
    }
    unless $primary {
      stacktira_wait { $formed_key:
        timeout => $wait,
        require => Class['mysql::server::config'],
        before  => Class['mysql::server::service'],
      }
    }
  }
}
