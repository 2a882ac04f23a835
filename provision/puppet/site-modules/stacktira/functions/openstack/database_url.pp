# @summary How a service reaches its database.
#
# @param service name of the service, of its database's user and of its secret SERVICE_database_password
# @param database name of the database and of its user, if not the service's
# @return [String] SQLAlchemy's URL
function stacktira::openstack::database_url(String $service, String $database = $service) >> String {
  $password = lookup("${service}_database_password")
  "mysql+pymysql://${database}:${password}@${stacktira::openstack::database_address}/${database}"
}
