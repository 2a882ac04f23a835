# @summary Parameters of a module's `authtoken` class: how a service checks the tokens it is shown.
#
# @param service name of the service's user and of its secret SERVICE_password
# @return [Hash] the parameters
function stacktira::openstack::authtoken(String $service) >> Hash {
  $parameters = {
    'password'             => lookup("${service}_password"),
    'auth_url'             => $stacktira::openstack::auth_url,
    'www_authenticate_uri' => $stacktira::openstack::auth_url,
    'region_name'          => $stacktira::openstack::region,
    'memcached_servers'    => ['127.0.0.1:11211'],
  }
  $parameters
}
