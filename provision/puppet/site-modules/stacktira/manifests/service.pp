# @summary Registers a service of this node in Consul's catalog, with its health check.
#
# @param port where the service listens
# @param tags what others find it by; `haproxy::balanced` puts it behind the proxies
# @param check Consul's definition of the health check
# @param address where the service listens, if not at the node's inside address
# @param meta further words about the service; `haproxy_mode` and `haproxy_backup` are read by the proxies
define stacktira::service (
  Stdlib::Port $port,
  Hash[String, Variant[String, Integer, Boolean]] $check,
  Array[String] $tags = [],
  Optional[Stdlib::IP::Address::V4] $address = undef,
  Hash[String, String] $meta = {},
) {
  include stacktira
  $definition = {
    'service' => {
      'name'    => $title,
      'port'    => $port,
      'address' => pick($address, $stacktira::address),
      'tags'    => $tags,
      'meta'    => $meta,
      'check'   => $check,
    },
  }
  file { "/etc/consul.d/50-${title}.json":
    ensure  => file,
    owner   => 'root',
    group   => 'root',
    mode    => '0644',
    content => "${to_json_pretty($definition)}\n",
    notify  => Exec['stacktira: consul reload'],
  }
}
