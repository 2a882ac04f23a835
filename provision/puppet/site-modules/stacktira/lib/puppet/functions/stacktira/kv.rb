# frozen_string_literal: true

require_relative '../../../puppet_x/stacktira/coprocess'

# Returns the value of a key in Consul as it is now, undef when the key is absent.
#
# When Consul cannot be asked the compilation fails. Data belongs into Hiera; this is for marks that one
# node leaves for itself or for others.
Puppet::Functions.create_function(:'stacktira::kv') do
  # @param key The whole key.
  # @return The value, as text.
  dispatch :kv do
    param 'String[1]', :key
    return_type 'Optional[String]'
  end

  def kv(key)
    answer = PuppetX::Stacktira::Coprocess.ask('wait', { 'key' => key, 'timeout' => 0 })
    answer['found'] ? answer['value'] : nil
  rescue PuppetX::Stacktira::Unanswered => e
    raise Puppet::ParseError, "stacktira::kv: #{e.message}"
  end
end
