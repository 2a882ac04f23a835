# @summary Registers a service that has no port: it is in Consul's catalog while its unit is active.
#
# systemd registers it when the unit has said that it is ready, and takes it out however the unit ends;
# a node that dies takes its services with it.
#
# @param unit name of the unit
# @param tags what others find it by
define stacktira::unit_service (
  Pattern[/\A[A-Za-z0-9@._-]+\.service\z/] $unit = "${title}.service",
  Array[String] $tags = [],
) {
  include stacktira
  $definition = {
    'service' => {
      'name'    => $title,
      'address' => $stacktira::address,
      'tags'    => $tags,
    },
  }
  file { "/etc/stacktira/services/${title}.json":
    ensure  => file,
    owner   => 'root',
    group   => 'root',
    mode    => '0644',
    content => "${to_json_pretty($definition)}\n",
    require => File['/etc/stacktira/services'],
  }
  -> file { "/etc/systemd/system/${unit}.d":
    ensure => directory,
    owner  => 'root',
    group  => 'root',
    mode   => '0755',
  }
  -> file { "/etc/systemd/system/${unit}.d/stacktira.conf":
    ensure  => file,
    owner   => 'root',
    group   => 'root',
    mode    => '0644',
    # Consul may be what is away: the unit does its work all the same.
    content => "[Service]\nExecStartPost=-+/usr/bin/env consul services register /etc/stacktira/services/${title}.json\nExecStopPost=-+/usr/bin/env consul services deregister -id=${title}\n",
  }
}
