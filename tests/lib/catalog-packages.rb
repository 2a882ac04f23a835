# frozen_string_literal: true

# On a node: each package that its catalog names, and whether the node's package source (build1's snapshot) has the
# version that is installed. Names as arguments are looked at besides.
# usage: ruby catalog-packages.rb [NAME...]
require 'json'
require 'open3'

PROVISION = '/opt/stacktira/provision/puppet'
SOURCE = %r{\Ahttp://[0-9.]+:8080/snap/[0-9a-f]{64}/}
COMPILE = ['puppet', 'catalog', 'compile', '--render-as', 'json', '--hiera_config', "#{PROVISION}/hiera.yaml",
           '--modulepath', "#{PROVISION}/site-modules:/var/lib/stacktira/puppet/modules", '--manifest', "#{PROVISION}/manifests/site.pp"].freeze

# The catalog has passwords in it: it stays in this process.
said, complaints, status = Open3.capture3(*COMPILE)
abort "catalog-packages: the catalog does not compile: #{complaints.lines.last(3).join}" unless status.success? && said.include?('{')
resources = JSON.parse(said[said.index('{')..]).fetch('resources')
names = resources.select { |one| one['type'] == 'Package' }.reject { |one| %w[absent purged].include?(one.dig('parameters', 'ensure')) }
names = names.flat_map { |one| Array(one.dig('parameters', 'name') || one['title']) }

(names + ARGV).uniq.sort.each do |name|
  policy, = Open3.capture2('apt-cache', 'policy', name)
  installed = policy[/^  Installed: (.*)/, 1]
  offered, = Open3.capture2e('apt-cache', 'madison', name)
  there = offered.lines.map { |line| line.split('|').map(&:strip) }.any? { |_, version, source| version == installed && source =~ SOURCE }
  puts "#{name}: #{if installed.nil? then 'not in the snapshot'
                   elsif installed == '(none)' then 'not installed'
                   elsif there then 'in the snapshot'
                   else "#{installed} is installed, which is not in the snapshot"
                   end}"
end
