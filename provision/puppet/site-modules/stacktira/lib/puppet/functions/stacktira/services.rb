# frozen_string_literal: true

require_relative '../../../puppet_x/stacktira/coprocess'

# Returns the instances of services from Consul's catalog, by service.
#
# A service that exists but has no fitting instance is there with an empty list. When Consul cannot be
# asked, or the token may not see everything, the compilation fails: members are never emptied by accident.
#
# @example
#   stacktira::services('haproxy::balanced').each |$service, $instances| { ... }
Puppet::Functions.create_function(:'stacktira::services') do
  # @param tag Only services and instances with this tag; undef for all.
  # @param passing Only instances whose checks pass.
  # @return Lists of id, node, address, port, tags and meta, sorted by node and id.
  dispatch :services do
    optional_param 'Optional[String[1]]', :tag
    optional_param 'Boolean', :passing
    return_type 'Hash[String, Array[Hash[String, Any]]]'
  end

  def services(tag = nil, passing = true)
    fields = { 'passing' => passing }
    fields['tag'] = tag unless tag.nil?
    PuppetX::Stacktira::Coprocess.ask('services', fields)['services']
  rescue PuppetX::Stacktira::Unanswered => e
    raise Puppet::ParseError, "stacktira::services: #{e.message}"
  end
end
