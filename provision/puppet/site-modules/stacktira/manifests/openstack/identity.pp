# @summary A service's user and endpoints in Keystone, by its module's class `keystone::auth`.
#
# The class is declared only where they have to be written. Elsewhere, even with all that it configures turned off, it asks
# Keystone for the service as such, with credentials that only the elected node has.
#
# @param port where the proxies serve it
# @param path what follows the port
# @param service name of the service, of its user and of its secret SERVICE_password
define stacktira::openstack::identity (
  Stdlib::Port $port,
  String $path = '',
  String[1] $service = $title,
) {
  include stacktira::openstack::control

  if $stacktira::openstack::control::configure {
    $url = stacktira::openstack::endpoint($port, $path)
    class { "${service}::keystone::auth":
      password     => lookup("${service}_password"),
      region       => $stacktira::openstack::region,
      public_url   => $url,
      internal_url => $url,
      admin_url    => $url,
    }
  }
}
