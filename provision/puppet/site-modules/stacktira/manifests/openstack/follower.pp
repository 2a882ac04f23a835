# @summary A control node that was not elected starts a service only when it answers elsewhere.
#
# By then the elected node has made its database. On the elected node there is nothing to wait for.
#
# @param service its name in Consul's catalog
# @param wait how many seconds a run waits
define stacktira::openstack::follower (
  String[1] $service = $title,
  Integer $wait = 900,
) {
  include stacktira::openstack

  unless $stacktira::openstack::primary {
    stacktira_wait { "service:${service}":
      timeout => $wait,
      require => Anchor["${title}::config::end"],
      before  => Anchor["${title}::service::begin"],
    }
  }
}
