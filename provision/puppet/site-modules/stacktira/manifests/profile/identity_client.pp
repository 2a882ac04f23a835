# @summary Where OpenStack's clients of this node find identity, as the control plane has published it.
#
# Without it the run waits, then fails and is tried again; nothing is made up.
#
# @param cloud name of the cloud in clouds.yaml
# @param region name of the region
# @param wait how many seconds a run waits for the control plane
class stacktira::profile::identity_client (
  String $cloud = 'stacktira',
  String $region = 'RegionOne',
  Integer $wait = 240,
) {
  # Read as it is now, and waited for.
  $identity_url = stacktira::wait_for('stacktira/identity/url', $wait)
  $clouds = {
    'clouds' => {
      $cloud => {
        'auth'                 => { 'auth_url' => $identity_url },
        'region_name'          => $region,
        'identity_api_version' => 3,
      },
    },
  }
  file { '/etc/openstack':
    ensure => directory,
    owner  => 'root',
    group  => 'root',
    mode   => '0755',
  }
  file { '/etc/openstack/clouds.yaml':
    ensure  => file,
    owner   => 'root',
    group   => 'root',
    mode    => '0644',
    content => to_yaml($clouds),
  }
}
