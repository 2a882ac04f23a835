# frozen_string_literal: true

require_relative '../../../puppet_x/stacktira/coprocess'

# Asks the coprocess of the functions, which blocks on Consul and does not poll.
Puppet::Type.type(:stacktira_wait).provide(:coprocess) do
  desc 'Uses the coprocess hiera-consul serve.'

  def exists?
    found?(0)
  end

  def create
    return if found?(resource[:timeout])

    raise Puppet::Error, "#{resource[:name]} is not there after #{resource[:timeout]} s"
  end

  private

  def found?(timeout)
    service = resource[:name][/\Aservice:(.+)\z/, 1]
    target = service ? { 'service' => service } : { 'key' => resource[:name] }
    PuppetX::Stacktira::Coprocess.ask('wait', target.merge('timeout' => timeout), timeout + 60)['found']
  rescue PuppetX::Stacktira::Unanswered => e
    raise Puppet::Error, e.message
  end
end
