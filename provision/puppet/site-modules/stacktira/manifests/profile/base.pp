# @summary What every node has: its watches, its facts for scripts, words for who logs in, and the packages that data name.
#
# @param motd text of /etc/motd
# @param watches changes in Consul that ask for a run, by name: the options of `consul-watch-handler`
# @param max_wait after how long the watches look again though Consul told of no change
# @param packages further packages, as `name: ensure`: `latest` is the newest of the snapshot that the node uses
class stacktira::profile::base (
  String $motd,
  Hash[String, Hash[String, Variant[String, Boolean, Array[String]]]] $watches,
  Pattern[/\A[0-9]+(ms|s|m)\z/] $max_wait = '30s',
  Hash[String[1], String[1]] $packages = {},
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
    # Each step of a rollout is one write that every node sees, and that moves few of them.
    $if_moved = $options['prefix'] ? {
      /\Astacktira\/mirror\// => ['--if-moved'],
      default                => [],
    }
    $watch = { 'name' => $name } + $options + { 'run' => ['/opt/stacktira/provision/kick'] + $if_moved + ['--reason', "watch ${name}"] }
    $watch
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

  $packages.each |$name, $ensure| {
    package { $name:
      ensure => $ensure,
    }
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
