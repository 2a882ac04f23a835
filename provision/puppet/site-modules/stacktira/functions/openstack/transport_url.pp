# @summary How a service sends messages: to RabbitMQ on the elected control node.
#
# @return [String] oslo.messaging's URL
function stacktira::openstack::transport_url() >> String {
  $password = lookup('rabbitmq_password')
  "rabbit://openstack:${password}@${stacktira::openstack::leader_address}:5672/"
}
