# @summary Where a balanced service is found: at the proxies' address, at its own port.
#
# @param port the service's port
# @param path what follows the port
# @return [String] the URL
function stacktira::openstack::endpoint(Stdlib::Port $port, String $path = '') >> Stdlib::HTTPUrl {
  "http://${stacktira::vip}:${port}${path}"
}
