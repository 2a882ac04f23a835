# frozen_string_literal: true

# What lookups cost in a Puppet catalog: 500 keys that only the last of nine levels has, read by yaml_data alone
# and with Consul before it. Each round compiles once with every hierarchy, each in a process of its own that
# has asked nothing yet, one after the other, so that what else the machine does falls on all alike.
#
#   ruby hiera-catalog.rb DIRECTORY LIBRARY ROUNDS        called by hiera.sh, which says where Consul is
#
# DIRECTORY gets the trees; LIBRARY is the module directory with `stacktira`. Prints medians of the time to
# compile, and how far above yaml_data they are: as it passed, and as the processors were used by Puppet and the
# coprocess, which does not count what others did meanwhile.

require 'fileutils'
require 'json'
require 'puppet'

ROOT, LIBRARY, ROUNDS = ARGV
KEYS = 500
LEVELS = %w[host/%{hostname} cluster/%{cluster} role/%{role} scenario/%{scenario} db/%{db} rpc/%{rpc} net/%{net} user common].freeze
FACTS = { 'hostname' => 'n1', 'cluster' => 'c', 'role' => 'r', 'scenario' => 's', 'db' => 'd', 'rpc' => 'q', 'net' => 'n',
          'clientcert' => 'n1.example.test', 'networking' => { 'hostname' => 'n1' } }.freeze

data = File.join(ROOT, 'hieradata')
FileUtils.mkdir_p([data, File.join(ROOT, 'catalog/production/manifests')])
File.write(File.join(data, 'common.yaml'), (1..KEYS).map { |n| "module#{n}::some_key: value #{n}\n" }.join)
File.write(File.join(data, 'user.yaml'), "user::key: 1\n")
five = LEVELS.map { |path| %(  - {name: "#{path}", path: "#{path}.yaml", datadir: "#{data}", data_hash: yaml_data}\n) }.join
address, port = ENV.fetch('CONSUL_HTTP_ADDR').split(':')
three = lambda do |backends|
  <<~YAML
    ---
    :backends: [#{backends}]
    :hierarchy: #{JSON.generate(LEVELS)}
    :yaml:
      :datadir: '#{data}'
    :consul:
      :host: '#{address}'
      :port: #{port}
      :paths: [services, '/v1/kv/hiera/host/%{hostname}', /v1/kv/hiera]
  YAML
end
consul = %w[host/%{hostname} common].map do |name|
  %(  - {name: "consul #{name}", lookup_key: "stacktira::consul", options: {prefix: "hiera/#{name}/", services: true}}\n)
end.join
CONFIGS = {
  'yaml_data' => "version: 5\nhierarchy:\n#{five}",
  'with stacktira::consul' => "version: 5\nhierarchy:\n#{consul}#{five}",
  'version 3, yaml' => three.call('yaml').sub(/^:consul:.*/m, ''),
  'version 3, consul and yaml' => three.call('consul, yaml')
}.freeze
CONFIGS.each_with_index { |(_, text), n| File.write(File.join(ROOT, "catalog-#{n}.yaml"), text) }
File.write(File.join(ROOT, 'catalog/production/manifests/site.pp'), <<~PUPPET)
  $found = Integer[1, #{KEYS}].map |$n| { lookup("module${n}::some_key") }
  if $found[#{KEYS - 1}] != 'value #{KEYS}' { fail('a wrong answer') }
PUPPET

$LOAD_PATH.unshift(File.join(LIBRARY, 'stacktira/lib'))
require 'puppet_x/stacktira/coprocess'
Puppet.initialize_settings(['--confdir', File.join(ROOT, 'conf'), '--vardir', File.join(ROOT, 'var')])
Puppet::Node.indirection.terminus_class = :plain
Puppet::Util::Log.newdestination(:console)
Puppet[:log_level] = 'err'

# Milliseconds on a processor so far, of this process and of the coprocess it may hold.
def used
  all = PuppetX::Stacktira::Coprocess.instance_variable_get(:@instances)&.values || []
  helpers = all.map { |coprocess| coprocess.instance_variable_get(:@pid) }.compact
  helpers.sum { |pid| File.read("/proc/#{pid}/schedstat").to_i / 1e6 } + Process.clock_gettime(Process::CLOCK_PROCESS_CPUTIME_ID, :float_millisecond)
end

# Milliseconds to compile with a hierarchy, in a process of its own: as they passed, and on a processor.
def compile(number)
  reader, writer = IO.pipe
  child = fork do
    reader.close
    Puppet[:hiera_config] = File.join(ROOT, "catalog-#{number}.yaml")
    loader = Puppet::Environments::Directories.new(File.join(ROOT, 'catalog'), [LIBRARY])
    Puppet.override(environments: loader) do
      node = Puppet::Node.indirection.find('n1.example.test', facts: Puppet::Node::Facts.new('n1.example.test', FACTS.dup), environment: 'production')
      before = [Process.clock_gettime(Process::CLOCK_MONOTONIC, :float_millisecond), used]
      Puppet::Parser::Compiler.compile(node)
      after = [Process.clock_gettime(Process::CLOCK_MONOTONIC, :float_millisecond), used]
      writer.puts(after.zip(before).map { |b, a| b - a }.join(' '))
    end
  end
  writer.close
  taken = reader.read
  Process.wait(child)
  raise "compiling with #{CONFIGS.keys[number]} failed" unless $?.success? && !taken.empty?

  taken.split.map(&:to_f)
end

times = CONFIGS.keys.map { [] }
Integer(ROUNDS).times { times.each_with_index { |all, number| all << compile(number) } }
median = ->(all) { all.sort[all.size / 2] }
{ 'passed' => 0, 'on a processor' => 1 }.each do |what, which|
  base = times.first.map { |all| all[which] }
  CONFIGS.keys.zip(times) do |name, all|
    own = all.map { |both| both[which] }
    # The difference to yaml_data of the same round, which was as busy.
    above = own.zip(base).map { |a, b| a - b }
    puts format('%-28s %-14s median %7.1f ms  min %7.1f ms  above yaml_data: median %+6.1f ms, of the fastest %+6.1f ms',
                name, what, median[own], own.min, median[above], own.min - base.min)
  end
end
