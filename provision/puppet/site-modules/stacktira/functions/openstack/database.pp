# @summary Parameters of a module's `db::mysql` class: the service's database and its user.
#
# @param service name of the service, of its database's user and of its secret SERVICE_database_password
# @return [Hash] the parameters
function stacktira::openstack::database(String $service) >> Hash {
  $parameters = {
    'password'      => lookup("${service}_database_password"),
    'host'          => $stacktira::openstack::database_address,
    'allowed_hosts' => [regsubst($stacktira::openstack::database_address, '\.[0-9]+\z', '.%')],
    # The server's own names for them: with any other the resource would change the database in each run.
    'charset'       => 'utf8mb3',
    'collate'       => 'utf8mb3_general_ci',
  }
  $parameters
}
