# @summary Balances what the cluster runs: every service tagged in Consul's catalog, healthy instances only.
#
# A service is found at this node's inside address and at its own port. When Consul cannot be asked the
# compilation fails, and the configuration stays as it is.
#
# @param balanced_tag which services
# @param stats_port where the statistics page is served
# @param global_options HAProxy's global section
# @param defaults_options HAProxy's defaults section
class stacktira::profile::haproxy (
  String $balanced_tag = 'haproxy::balanced',
  Stdlib::Port $stats_port = 8404,
  Hash $global_options = {
    'log'     => '/dev/log local0',
    'user'    => 'haproxy',
    'group'   => 'haproxy',
    'daemon'  => '',
    'maxconn' => '4000',
    'stats'   => 'socket /run/haproxy/admin.sock mode 660 level admin',
  },
  Hash $defaults_options = {
    'log'     => 'global',
    'mode'    => 'http',
    'retries' => '3',
    'option'  => ['httplog', 'redispatch'],
    'timeout' => ['connect 5s', 'client 180s', 'server 180s', 'check 5s'],
  },
) {
  include stacktira

  class { 'haproxy':
    global_options   => $global_options,
    defaults_options => $defaults_options,
    merge_options    => false,
    restart_command  => '/bin/systemctl reload haproxy',
  }

  haproxy::listen { 'stats':
    collect_exported => false,
    ipaddress        => $stacktira::address,
    ports            => String($stats_port),
    options          => { 'stats' => ['enable', 'uri /', 'refresh 5s'], 'mode' => 'http' },
  }

  stacktira::services($balanced_tag, true).each |$service, $instances| {
    unless empty($instances) {
      $mode = pick($instances[0]['meta']['haproxy_mode'], 'http')
      $options = $mode ? {
        'http'  => { 'balance' => 'roundrobin', 'option' => ['forwardfor'] },
        default => { 'balance' => 'roundrobin' },
      }
      haproxy::listen { $service:
        collect_exported => false,
        ipaddress        => $stacktira::address,
        ports            => String($instances[0]['port']),
        mode             => $mode,
        options          => $options,
      }
      $instances.each |$instance| {
        haproxy::balancermember { "${service} ${instance['node']} ${instance['id']}":
          listening_service => $service,
          server_names      => "${instance['node']}-${instance['port']}",
          ipaddresses       => $instance['address'],
          ports             => String($instance['port']),
          options           => $instance['meta']['haproxy_backup'] ? {
            undef   => 'check inter 2s rise 1 fall 3',
            default => 'check inter 2s rise 1 fall 3 backup',
          },
        }
      }
    }
  }
}
