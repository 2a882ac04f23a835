# frozen_string_literal: true

# Answers lookups of many small trees by the real Puppet, in one process: reads the jobs from the file
# ARGV[0], writes one JSON object a line: job, query, result (found, not_found, error), value or message.
# What takes 2 GiB is answered as `runaway`. ARGV[1] is a directory for Puppet's own files. Puppet never forgets an environment, so that some jobs at a
# time are answered by a copy of the process, which ends and takes them with it.

require 'json'
require 'puppet'

Puppet.initialize_settings(['--confdir', File.join(ARGV[1], 'conf'), '--vardir', File.join(ARGV[1], 'var')])
Puppet::Node.indirection.terminus_class = :plain
Puppet[:code] = 'undef'

def merge_of(query)
  return query['merge'] unless query['merge'] == 'deep'

  options = { 'strategy' => 'deep' }
  options['knockout_prefix'] = query['knockout'] if query['knockout']
  options['sort_merged_arrays'] = true if query['sort']
  options['merge_hash_arrays'] = true if query['hashes']
  options
end

def answer(query, scope)
  invocation = Puppet::Pops::Lookup::Invocation.new(scope, {}, {}, nil)
  default = query['default']
  value = Puppet::Pops::Lookup.lookup(query['keys'], nil, default, !default.nil?, merge_of(query), invocation)
  text = JSON.generate(value)
  "\"result\":\"found\",\"value\":#{text}"
rescue NoMemoryError
  '"result":"runaway"'
rescue StandardError, SystemStackError => e
  if e.is_a?(Puppet::DataBinding::LookupError) && e.message.start_with?('Function lookup() did not find a value')
    '"result":"not_found"'
  else
    "\"result\":\"error\",\"message\":#{JSON.generate(e.message.scrub)}"
  end
end

def answer_all(job)
  Puppet[:hiera_config] = job['global']
  job['queries'].each_with_index do |query, number|
    said = nil
    begin
      loader = Puppet::Environments::Directories.new(File.join(job['root'], 'environments'), [])
      Puppet.override(environments: loader) do
        facts = Puppet::Node::Facts.new(job['node'], Marshal.load(Marshal.dump(job['facts'])))
        node = Puppet::Node.indirection.find(job['node'], facts: facts, environment: 'e')
        compiler = Puppet::Parser::Compiler.new(node)
        compiler.compile do |catalog|
          said = answer(query, compiler.topscope)
          catalog
        end
      end
    rescue StandardError, SystemStackError => e
      said ||= "\"result\":\"error\",\"message\":#{JSON.generate(e.message.scrub)}"
    end
    puts "{\"job\":#{JSON.generate(job['id'])},\"query\":#{number},#{said}}"
  end
end

$stdout.sync = true
JSON.parse(File.read(ARGV[0])).each_slice(25) do |jobs|
  Process.wait(fork do
    # Data that names itself twice over and over makes Puppet grow without end.
    Process.setrlimit(Process::RLIMIT_AS, 2 << 30)
    jobs.each { |job| answer_all(job) }
  end)
  exit 1 unless $?.success?
end
