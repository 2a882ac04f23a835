# frozen_string_literal: true

Puppet::Type.newtype(:stacktira_wait) do
  @doc = <<~DOC
    Waits, while the catalog is applied, until a key is in Consul or a service has a healthy instance. What
    requires it is skipped when the time is over, and the next run waits again.

        stacktira_wait { 'service:nova-conductor':
          timeout => 600,
          before  => Service['nova-compute'],
        }
  DOC

  ensurable do
    newvalue(:present) { provider.create }
    defaultto :present
  end

  newparam(:name, namevar: true) do
    desc 'A whole key, or `service:NAME`.'
    validate do |value|
      raise ArgumentError, "'#{value}' is neither a key nor service:NAME" unless value.match?(%r{\A(service:)?[^/:\s][^:\s]*\z})
    end
  end

  newparam(:timeout) do
    desc 'Seconds.'
    defaultto 300
    validate do |value|
      raise ArgumentError, 'the timeout must be 1 to 86400 seconds' unless value.to_s.match?(/\A[0-9]+\z/) && value.to_i.between?(1, 86_400)
    end
    munge(&:to_i)
  end
end
