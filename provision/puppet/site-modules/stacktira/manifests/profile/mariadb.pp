# @summary The database of the control plane, on the elected node only.
#
# The administrator comes in by the socket, as root of this machine; there is no password of his to keep.
#
# @param options further settings of the server's section [mysqld]
class stacktira::profile::mariadb (
  Hash $options = {},
) {
  include stacktira::openstack

  if $stacktira::openstack::primary {
    class { 'mysql::server':
      package_name            => 'mariadb-server',
      service_name            => 'mariadb',
      remove_default_accounts => true,
      restart                 => true,
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
        } + $options,
      },
    }
    class { 'mysql::client': package_name => 'mariadb-client' }

    stacktira::service { 'mysql':
      port  => 3306,
      tags  => ['database'],
      check => { 'tcp' => "${stacktira::address}:3306", 'interval' => '5s', 'timeout' => '2s' },
    }
  }
}
