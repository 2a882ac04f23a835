# @summary What OpenStack's services of a node share: where the parts of the control plane are, and whether
#   this node is the one that does what is to be done once.
#
# The elected node of the role control writes users, roles and endpoints into Keystone. It does so only when their
# digest differs from the one that was recorded after the last time: a run in which they have not changed asks
# Keystone nothing.
#
# Where there is one control node it has the database and the messages. Where there are several, each has both, and
# they are one cluster (Galera, RabbitMQ): a node's services use its own database and go with it, and whoever sends
# messages knows all brokers. The elected node forms both clusters, the others join.
#
# @param region name of the region
# @param election what the control nodes are elected under
class stacktira::openstack (
  String $region = 'RegionOne',
  String $election = 'control',
) {
  include stacktira

  $primary = stacktira::leader($election) == $facts['networking']['hostname']
  $leader_address = lookup("leader__${election}__address", Stdlib::IP::Address::V4)
  $controls = pick($facts['stacktira']['controls'], {})
  $several = size($controls) > 1
  $database_address = $several ? {
    true  => $stacktira::address,
    false => $leader_address,
  }
  # This node's own comes first: Nova's cells take the first.
  $message_addresses = $several ? {
    true  => unique([$stacktira::address] + $controls.values.sort).filter |$one| { $one in $controls.values },
    false => [$leader_address],
  }
  $auth_url = stacktira::openstack::endpoint(5000, '/v3')
}
