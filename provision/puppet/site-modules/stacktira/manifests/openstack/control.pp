# @summary What every control node has under its services: a client, a cache for tokens, and the record of
#   what was written into Keystone.
#
# @param key where the digest of what was written is recorded
class stacktira::openstack::control (
  Pattern[/\Astacktira\//] $key = 'stacktira/identity/configured',
) {
  include stacktira::openstack

  # What users and endpoints depend on; a machine that was made anew has an empty database.
  $digest = sha256([
    lookup('stacktira::secrets').map |$secret| { lookup($secret.split(' ')[0], { 'default_value' => '' }) },
    lookup('classes', Array[String], 'unique'),
    $stacktira::vip,
    $stacktira::openstack::region,
    file('/etc/machine-id'),
  ].flatten.join("\n"))
  $configure = $stacktira::openstack::primary and stacktira::kv($key) != $digest

  if $configure {
    Keystone_user <| |> -> Stacktira_kv[$key]
    Keystone_user_role <| |> -> Stacktira_kv[$key]
    Keystone_tenant <| |> -> Stacktira_kv[$key]
    Keystone_role <| |> -> Stacktira_kv[$key]
    Keystone_service <| |> -> Stacktira_kv[$key]
    Keystone_endpoint <| |> -> Stacktira_kv[$key]
    # The modules make schemas and first users when something that these follow from changes in the same run. A run that
    # was cut off in between leaves nothing to change: until it is recorded that all is done, it is done in each run.
    Exec <| tag == 'openstack-db' or title == 'keystone bootstrap' or title == 'nova-cell_v2-map_cell0' |> {
      refreshonly => false,
      refresh     => '/bin/true',
    }
    -> Stacktira_kv[$key]
    stacktira_kv { $key: value => $digest }
  }

  ensure_packages(['python3-memcache', 'memcached'])
  service { 'memcached':
    ensure  => running,
    enable  => true,
    require => Package['memcached'],
  }
}
