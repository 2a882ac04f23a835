# @summary How a service sends messages: to RabbitMQ on the control nodes that have it.
#
# @return [String] oslo.messaging's URL
function stacktira::openstack::transport_url() >> String {
  $password = lookup('rabbitmq_password')
  $brokers = $stacktira::openstack::message_addresses.map |$address| { "openstack:${password}@${address}:5672" }
  "rabbit://${brokers.join(',')}/"
}
