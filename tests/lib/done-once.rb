# frozen_string_literal: true

# Counts the one-time work in Puppet's reports: commands that make or change what all control nodes share, and
# changes of what is written into Keystone. One line each: COUNT NODE RESOURCE.
# usage: ruby done-once.rb NODE=FILE...
require 'puppet'

COMMANDS = /db[-_]?sync|bootstrap|cell|metadefs|form the database/i
SHARED = %w[Keystone_user Keystone_user_role Keystone_role Keystone_tenant Keystone_service Keystone_endpoint Keystone_domain
            Mysql_database Mysql_user Mysql_grant Nova_cell_v2 Rabbitmq_user Rabbitmq_user_permissions Rabbitmq_policy].freeze

counts = Hash.new(0)
ARGV.each do |argument|
  node, file = argument.split('=', 2)
  report = Puppet::Transaction::Report.convert_from(:yaml, File.read(file))
  report.resource_statuses.each_value do |status|
    type = status.resource_type
    next unless SHARED.include?(type) || (type == 'Exec' && status.title.match?(COMMANDS))

    done = status.events.count { |event| event.status == 'success' }
    counts[[node, status.resource]] += 1 if done.positive?
  end
end
counts.sort.each { |(node, resource), count| puts "#{count} #{node} #{resource}" }
