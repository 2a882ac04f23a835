# @summary A vote without data: two databases and this one are three, of which two are enough to go on.
#
# It joins when the cluster has been formed; until then, and where there is one control node, there is nothing to do.
# There is one: of several proxies the one that has the address of the cluster. Two would be an even number of votes again.
#
# @param formed_key where it is recorded who formed the cluster
class stacktira::profile::arbitrator (
  Pattern[/\Astacktira\//] $formed_key = 'stacktira/database/formed',
) {
  include stacktira

  $controls = pick($facts['stacktira']['controls'], {})
  $members = $controls.values.sort.map |$address| { "${address}:4567" }
  if $stacktira::address == $stacktira::vip and size($members) > 1 and size($members) % 2 == 0 and stacktira::kv($formed_key) =~ NotUndef {
    package { 'galera-arbitrator-4': ensure => installed }
    -> file { '/etc/default/garb':
      ensure  => file,
      owner   => 'root',
      group   => 'root',
      mode    => '0644',
      content => "GALERA_NODES=\"${members.join(' ')}\"\nGALERA_GROUP=\"stacktira\"\nGALERA_OPTIONS=\"gmcast.listen_addr=tcp://${stacktira::address}:4567\"\n",
    }
    -> file { '/etc/systemd/system/garb.service.d':
      ensure => directory,
      owner  => 'root',
      group  => 'root',
      mode   => '0755',
    }
    # It ends when it finds no member, as while all of them are down.
    -> file { '/etc/systemd/system/garb.service.d/stacktira.conf':
      ensure  => file,
      owner   => 'root',
      group   => 'root',
      mode    => '0644',
      content => "[Unit]\nStartLimitIntervalSec=0\n[Service]\nRestart=always\nRestartSec=5\n",
    }
    ~> exec { 'stacktira: systemd reads the unit of the arbitrator':
      command     => 'systemctl daemon-reload',
      path        => ['/usr/bin', '/bin'],
      refreshonly => true,
    }
    -> service { 'garb':
      ensure    => running,
      enable    => true,
      subscribe => File['/etc/default/garb'],
    }
  }
}
