# frozen_string_literal: true

require_relative '../../../puppet_x/stacktira/coprocess'

# Waits until a key is in Consul, or an instance of a service is healthy, and returns it.
#
# The compilation fails when the time is over, and is then tried again by whoever runs Puppet; it never
# goes on without the value.
#
# @example
#   $url = stacktira::wait_for('stacktira/identity/url', 240)
#   stacktira::wait_for('service:mysql', 60)
Puppet::Functions.create_function(:'stacktira::wait_for') do
  # @param target A key, or `service:NAME`.
  # @param timeout Seconds.
  # @return The key's value, or the service's healthy instances.
  dispatch :wait_for do
    param 'String[1]', :target
    param 'Integer[0, 86400]', :timeout
  end

  def wait_for(target, timeout)
    service = target[/\Aservice:(.+)\z/, 1]
    fields = service ? { 'service' => service } : { 'key' => target }
    # An attempt may begin just before the deadline and have its own limit.
    answer = PuppetX::Stacktira::Coprocess.ask('wait', fields.merge('timeout' => timeout), timeout + 60)
    raise Puppet::ParseError, "stacktira::wait_for: #{target} is not there after #{timeout} s" unless answer['found']

    answer['value']
  rescue PuppetX::Stacktira::Unanswered => e
    raise Puppet::ParseError, "stacktira::wait_for: #{e.message}"
  end
end
