# @summary Parameters of a module's `keystone::auth` class: the service's user and its endpoints.
#
# They are written by the elected node, and only when something about them has changed.
#
# @param service name of the service, of its user and of its secret SERVICE_password
# @param port where the proxies serve it
# @param path what follows the port
# @return [Hash] the parameters
function stacktira::openstack::identity(String $service, Stdlib::Port $port, String $path = '') >> Hash {
  $url = stacktira::openstack::endpoint($port, $path)
  $parameters = {
    'password'            => lookup("${service}_password"),
    'region'              => $stacktira::openstack::region,
    'public_url'          => $url,
    'internal_url'        => $url,
    'admin_url'           => $url,
    'configure_user'      => $stacktira::openstack::control::configure,
    'configure_user_role' => $stacktira::openstack::control::configure,
    'configure_endpoint'  => $stacktira::openstack::control::configure,
  }
  $parameters
}
