# frozen_string_literal: true

Puppet::Type.newtype(:stacktira_kv) do
  @doc = <<~DOC
    Publishes a value under a key of Consul, for other nodes to look up or to wait for.

        stacktira_kv { 'stacktira/identity/url':
          value => 'http://192.0.2.1:5000/v3',
        }
  DOC

  ensurable do
    defaultvalues
    defaultto :present
  end

  newparam(:name, namevar: true) do
    desc 'The whole key.'
    validate do |value|
      raise ArgumentError, "'#{value}' is no key" if value.empty? || value.start_with?('/')
    end
  end

  newproperty(:value) do
    desc 'The value, as text.'
    validate do |value|
      raise ArgumentError, 'a value must be text' unless value.is_a?(String)
      raise ArgumentError, 'a value may have 512 KiB' if value.bytesize > 512 * 1024
    end
  end

  validate do
    raise Puppet::Error, "stacktira_kv[#{self[:name]}]: a value is needed" if self[:ensure] == :present && self[:value].nil?
  end
end
