# @summary What OpenStack's services of a node share: where the parts of the control plane are, and whether
#   this node is the one that does what is to be done once.
#
# The elected node of the role control runs the database and the messages, and writes users, roles and
# endpoints into Keystone. It does the latter only when their digest differs from the one that was recorded
# after the last time: a run in which they have not changed asks Keystone nothing.
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
  $database_address = $leader_address
  $auth_url = stacktira::openstack::endpoint(5000, '/v3')
}
