# frozen_string_literal: true

require 'securerandom'
require_relative '../../puppet_x/stacktira/coprocess'

class Hiera
  module Backend
    # The `consul` backend of version 3 files, for the original's hiera.yaml unchanged: its `:consul:` settings,
    # `:paths:` and computed keys.
    #
    # Everything is asked of one `hiera-consul serve`. What one instance has been told it remembers, misses
    # too, since Puppet asks again for each level of the hierarchy. A refusal or a broken answer is raised,
    # never taken for a miss; `:failure: graceful` lets a run go on without a Consul that cannot be reached.
    # The directory `lib` of this module has to be on Ruby's load path.
    class Consul_backend
      def initialize
        settings = Config[:consul]
        raise ArgumentError, '[hiera-consul]: there are no settings under :consul: in hiera.yaml' unless settings.is_a?(Hash)

        @settings = settings.each_with_object({}) { |(name, value), all| all[name.to_s] = value.is_a?(Symbol) ? value.to_s : value }
        @paths = [@settings.delete('paths')].flatten.compact
        @run = SecureRandom.hex(16)
        @answers = {}
        Hiera.debug("[hiera-consul]: paths are #{@paths.join(', ')}")
      end

      def lookup(key, scope, _order_override, _resolution_type, context)
        paths = @paths.map { |path| interpolate(path, key, scope, context) }
        answer = ask(key, paths)
        return answer['value'] if answer['found']

        # Puppet hands over what is dug for, the hiera command does not.
        root, *rest = split(key)
        throw :no_such_key if rest.empty?
        answer = ask(root, @paths.map { |path| interpolate(path, root, scope, context) })
        throw :no_such_key unless answer['found']
        Backend.qualified_lookup(rest, answer['value'], key)
      end

      private

      def interpolate(path, key, scope, context)
        parts = path.split('%{key}', -1).map do |part|
          context ? Backend.parse_string(part, scope, {}, context) : Backend.parse_string(part, scope)
        end
        parts.join(key)
      end

      def split(key)
        return [key] unless key.include?('.')

        Util.split_key(key) { |problem| ArgumentError.new("#{problem} in key: #{key}") }
      end

      def ask(key, paths)
        return { 'found' => false } if key.empty?

        @answers[[key, paths]] ||= begin
          fields = { 'run' => @run, 'settings' => @settings, 'paths' => paths, 'key' => key }
          answer = PuppetX::Stacktira::Coprocess.ask('version3', fields, 120)
          Hiera.warn("[hiera-consul]: #{answer['warning']}") if answer['warning']
          answer
        end
      rescue PuppetX::Stacktira::Unanswered => e
        raise e.class.new("[hiera-consul]: #{key}: #{e.message}", e.code)
      end
    end
  end
end
