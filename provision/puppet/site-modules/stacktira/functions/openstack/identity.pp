# @summary Parameters of a module's `keystone::auth` class: the service's user and its endpoints.
#
# To be declared where `stacktira::openstack::control::configure` says so. Declared elsewhere, even with all that it configures turned
# off, the class asks Keystone for the service as such, with credentials that only the elected node has.
#
# @param service name of the service, of its user and of its secret SERVICE_password
# @param port where the proxies serve it
# @param path what follows the port
# @return [Hash] the parameters
function stacktira::openstack::identity(String $service, Stdlib::Port $port, String $path = '') >> Hash {
  $url = stacktira::openstack::endpoint($port, $path)
  $parameters = {
    'password'     => lookup("${service}_password"),
    'region'       => $stacktira::openstack::region,
    'public_url'   => $url,
    'internal_url' => $url,
    'admin_url'    => $url,
  }
  $parameters
}
