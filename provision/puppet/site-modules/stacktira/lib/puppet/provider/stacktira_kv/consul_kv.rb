# frozen_string_literal: true

require 'open3'

# Reads and writes through the tool `consul-kv`: one way to talk to Consul, with its deadlines and exit codes.
Puppet::Type.type(:stacktira_kv).provide(:consul_kv) do
  desc 'Uses consul-kv.'

  # The tool: STACKTIRA_BIN names the directory of another installation.
  def self.binary
    own = ENV['STACKTIRA_BIN'].to_s
    return File.join(own, 'consul-kv') unless own.empty?

    installed = '/opt/stacktira/bin/consul-kv'
    File.executable?(installed) ? installed : 'consul-kv'
  end

  def exists?
    !current.nil?
  end

  def value
    current
  end

  def create
    put(resource[:value])
  end

  def value=(wanted)
    put(wanted)
  end

  def destroy
    run(['delete', resource[:name]])
    @current = nil
  end

  private

  # The value in Consul, or nil; read once per run.
  def current
    return @current if defined?(@current)

    out, code = run(['get', resource[:name]], allowed: [0, 1])
    @current = code.zero? ? out.force_encoding(Encoding::UTF_8) : nil
  end

  def put(wanted)
    run(['put', resource[:name], '-'], input: wanted)
    @current = wanted
  end

  def run(arguments, input: '', allowed: [0])
    out, err, status = Open3.capture3(self.class.binary, *arguments, stdin_data: input, binmode: true)
    code = status.exitstatus || 70
    raise Puppet::Error, "consul-kv #{arguments.first} #{resource[:name]}: #{err.strip} (code #{code})" unless allowed.include?(code)

    [out, code]
  end
end
