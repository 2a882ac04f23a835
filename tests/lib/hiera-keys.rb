# frozen_string_literal: true

# Says which keys of Hiera data name no parameter of a class: Puppet ignores them without a word.
# usage: ruby hiera-keys.rb MODULEPATH FILE.yaml...
# Prints one line per dead key, and ends with 1 if there is any. Keys that a module's code looks up by itself
# are not parameters; `stacktira::elect` and `stacktira::secrets` are read by provision/converge.sh.
require 'puppet'
require 'yaml'

READ_BY_SCRIPTS = %w[stacktira::elect stacktira::secrets].freeze

modulepath, *files = ARGV
abort 'usage: ruby hiera-keys.rb MODULEPATH FILE.yaml...' if files.empty?

parser = Puppet::Pops::Parser::EvaluatingParser.new
parameters = Hash.new do |known, name|
  first, *rest = name.split('::')
  relative = rest.empty? ? 'init.pp' : "#{File.join(*rest)}.pp"
  file = modulepath.split(':').map { |directory| File.join(directory, first, 'manifests', relative) }.find { |path| File.exist?(path) }
  definition = file && parser.parse_file(file).definitions.find do |found|
    found.is_a?(Puppet::Pops::Model::HostClassDefinition) && found.name == name
  end
  known[name] = definition && definition.parameters.map(&:name)
end

checked = 0
dead = files.flat_map do |file|
  (YAML.safe_load_file(file, aliases: true) || {}).keys.grep(/::/).reject { |key| READ_BY_SCRIPTS.include?(key) }.filter_map do |key|
    checked += 1
    name, _, parameter = key.rpartition('::')
    if parameters[name].nil? then "#{file}: #{key}: there is no class #{name}"
    elsif !parameters[name].include?(parameter) then "#{file}: #{key}: the class #{name} has no parameter #{parameter}"
    end
  end
end
puts dead
puts "#{checked} keys, #{dead.size} dead"
exit dead.empty? ? 0 : 1
