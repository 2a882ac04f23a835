# @summary What every node has: its watches, its facts for scripts, and words for who logs in.
#
# @param motd text of /etc/motd
# @param watches changes in Consul that ask for a run, by name: the options of `consul-watch-handler`
# @param max_wait after how long the watches look again though Consul told of no change
class stacktira::profile::base (
  String $motd,
  Hash[String, Hash[String, Variant[String, Boolean, Array[String]]]] $watches,
  Pattern[/\A[0-9]+(ms|s|m)\z/] $max_wait = '30s',
) {
  include stacktira

  file { '/etc/motd':
    ensure  => file,
    owner   => 'root',
    group   => 'root',
    mode    => '0644',
    content => $motd,
  }

  $list = $watches.map |$name, $options| {
    { 'name' => $name } + $options + { 'run' => ['/opt/stacktira/provision/kick', '--reason', "watch ${name}"] }
  }
  file { '/etc/stacktira/watch.yaml':
    ensure  => file,
    owner   => 'root',
    group   => 'root',
    mode    => '0644',
    content => to_yaml({ 'max_wait' => $max_wait, 'watches' => $list }),
  }
  # The watcher reads its file again on SIGHUP; runs that it has kicked go on.
  ~> service { 'stacktira-watch':
    ensure  => running,
    enable  => true,
    restart => '/bin/systemctl reload stacktira-watch',
  }

  # Facts that stand still, for `hiera-consul lookup` on this node.
  $still = ['role', 'stacktira', 'os', 'kernel', 'virtual', 'is_virtual', 'timezone']
  $kept = $facts.filter |$name, $value| { $name in $still }
  $networking = $facts['networking'].filter |$name, $value| { $name in ['hostname', 'fqdn', 'domain'] }
  file { '/var/lib/stacktira/facts.json':
    ensure  => file,
    owner   => 'root',
    group   => 'root',
    mode    => '0644',
    content => "${to_json_pretty($kept + { 'networking' => $networking })}\n",
  }
}
