# @summary What every class of this module may ask: who and where this node is.
#
# @param address the node's inside address, locked at its first boot
# @param vip the address of the proxies, where balanced services are found
class stacktira (
  Stdlib::IP::Address::V4 $address = $facts['stacktira']['internal_address'],
  Stdlib::IP::Address::V4 $vip = $facts['stacktira']['vip'],
) {
  exec { 'stacktira: consul reload':
    command     => 'consul reload',
    path        => ['/usr/local/bin', '/usr/bin', '/bin'],
    refreshonly => true,
  }
  file { '/etc/stacktira/services':
    ensure => directory,
    owner  => 'root',
    group  => 'root',
    mode   => '0755',
  }
}
