# frozen_string_literal: true

require 'securerandom'
require_relative '../../puppet_x/stacktira/coprocess'

class Hiera
  module Backend
    # The `consul` backend of version 3 files, for the original's hiera.yaml unchanged: its `:consul:` settings,
    # `:paths:` and computed keys.
    #
    # What is stored is handed over once by `hiera-consul serve`, and a key that is not there costs a look into a
    # Hash. Keys of the catalog are asked
    # for when they are looked up, and remembered. A refusal or a broken answer is raised, never taken for a miss;
    # `:failure: graceful` lets a run go on without a Consul that cannot be reached. The directory `lib` of this
    # module has to be on Ruby's load path.
    class Consul_backend
      ABSENT = { 'found' => false }.freeze
      private_constant :ABSENT

      def initialize
        settings = Config[:consul]
        raise ArgumentError, '[hiera-consul]: there are no settings under :consul: in hiera.yaml' unless settings.is_a?(Hash)

        @settings = settings.each_with_object({}) { |(name, value), all| all[name.to_s] = value.is_a?(Symbol) ? value.to_s : value }
        @paths = [@settings.delete('paths')].flatten.compact
        @by_key = @paths.any? { |path| path.include?('%{key}') }
        @run = SecureRandom.hex(16)
        @variables = variables
        @interpolated = {}
        # Answers by paths, which are one object where they are the same, and by key.
        @answers = {}.compare_by_identity
        @stored = {}.compare_by_identity
        be_asked_twice if defined?(Puppet::Pops::Lookup::Invocation)
        Hiera.debug("[hiera-consul]: paths are #{@paths.join(', ')}")
      end

      def lookup(key, scope, _order_override, _resolution_type, context)
        # Puppet asks more than once, with the same scope.
        throw :no_such_key if scope.equal?(@scope) && key == @absent

        answer = find(key, scope, context)
        return answer['value'] if answer['found']

        # Puppet hands over what is dug for, the hiera command does not.
        root, *rest = split(key) if key.include?('.')
        if rest.nil? || rest.empty?
          @absent = key
          throw :no_such_key
        end
        answer = find(root, scope, context)
        throw :no_such_key unless answer['found']
        Backend.qualified_lookup(rest, answer['value'], key)
      end

      private

      # Puppet asks a backend once for each level of the hierarchy and says nothing of the level, so all answers are the
      # same. Two of them are enough for values to be merged as Puppet merges them; with nine levels, what Puppet does
      # for the other seven is more than half of what all lookups cost. A Puppet that is otherwise inside goes on asking.
      def be_asked_twice
        invocation = Puppet::Pops::Lookup::Invocation.current
        global = invocation.lookup_adapter.send(:global_provider, invocation)
        providers = global.config(invocation).configured_data_providers(invocation, global)
        providers.each do |provider|
          own = provider.is_a?(Puppet::Pops::Lookup::V3BackendFunctionProvider) && provider.options['backend'] == 'consul'
          provider.locations.slice!(2..) if own
        end
      rescue StandardError => e
        Hiera.debug("[hiera-consul]: asked for each level: #{e.message}")
      end

      def find(key, scope, context)
        return ABSENT if key.empty?

        paths = paths(key, scope, context)
        (@answers[paths] ||= {})[key] ||= search(key, paths)
      end

      def search(key, paths)
        return ask(key, paths) if @by_key || key.start_with?('/') || key.include?('//')

        stored(key, paths).each do |place|
          return ask(key, paths) if place['ask'] == true || place['ask']&.include?(key) || (place['computed'] && computed?(key))

          value = place['values']&.fetch(key, nil)
          return { 'found' => true, 'value' => value } if value
        end
        ABSENT
      end

      # The paths, interpolated: again only when a variable in them has another value. Puppet makes a scope for each
      # lookup.
      def paths(key, scope, context)
        return @last if scope.equal?(@scope) && !@by_key

        values = @variables ? @variables.map { |name| scope[name] } : interpolate(key, scope, context)
        @scope = scope
        @last = @interpolated[values] ||= @variables ? interpolate(key, scope, context) : values
      end

      def interpolate(key, scope, context)
        @paths.map do |path|
          parts = path.split('%{key}', -1).map do |part|
            context ? Backend.parse_string(part, scope, {}, context) : Backend.parse_string(part, scope)
          end
          parts.join(key)
        end
      end

      # The variables that paths consist of; nil where something else than variables is in them.
      def variables
        tokens = @paths.flat_map { |path| path.scan(/%\{([^}]*)\}/) }.flatten
        return nil if @by_key || tokens.any? { |token| !token.match?(/\A(?:::)?\w+(?:\.\w+)*\z/) }

        tokens.map { |token| token[/\A(?:::)?\w+/] }.uniq
      end

      # Consul's names of properties begin with a capital letter, those of parameters do not.
      def computed?(key)
        key == 'service_hash' || key.start_with?('service_hash__', 'leader__') || key.match?(/._[A-Z]/)
      end

      def split(key)
        Util.split_key(key) { |problem| ArgumentError.new("#{problem} in key: #{key}") }
      end

      def stored(key, paths)
        @stored[paths] ||= begin
          places = request(key, { 'paths' => paths })['paths'] || []
          whole = places.is_a?(Array) && places.all?(Hash) && (places.empty? || places.size == paths.size)
          raise PuppetX::Stacktira::Unanswered, "[hiera-consul]: #{key}: hiera-consul serve gave an answer of another kind" unless whole

          places
        end
      end

      def ask(key, paths)
        request(key, { 'paths' => paths, 'key' => key })
      end

      def request(key, fields)
        answer = PuppetX::Stacktira::Coprocess.ask('version3', { 'run' => @run, 'settings' => @settings }.merge(fields))
        Hiera.warn("[hiera-consul]: #{answer['warning']}") if answer['warning']
        answer
      rescue PuppetX::Stacktira::Unanswered => e
        raise e.class.new("[hiera-consul]: #{key}: #{e.message}", e.code)
      end
    end
  end
end
