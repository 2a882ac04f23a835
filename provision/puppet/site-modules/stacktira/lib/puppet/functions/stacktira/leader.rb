# frozen_string_literal: true

require_relative '../../../puppet_x/stacktira/coprocess'

# Returns the name of the node that is elected under a name, undef when nobody is.
#
# When Consul cannot be asked the compilation fails.
Puppet::Functions.create_function(:'stacktira::leader') do
  # @param name What `consul-elect` was given.
  # @return The node's name.
  dispatch :leader do
    param 'String[1]', :name
    return_type 'Optional[String]'
  end

  def leader(name)
    record = PuppetX::Stacktira::Coprocess.ask('leader', { 'name' => name })['leader']
    record && record['node']
  rescue PuppetX::Stacktira::Unanswered => e
    raise Puppet::ParseError, "stacktira::leader: #{e.message}"
  end
end
