# frozen_string_literal: true

require 'securerandom'

module PuppetX
  module Stacktira
    # The lookups of one catalog: a name for `hiera-consul serve`, which answers all of them from one state.
    #
    # Puppet hands the options of one level to a function and says nothing of the others. So that all can be read
    # at once, the hierarchies are looked at here, and the options of their Consul levels go along as a hint. A
    # hierarchy that cannot be read is Puppet's to refuse.
    class Run < Puppet::Pops::Adaptable::Adapter
      FUNCTION = 'stacktira::consul'
      KINDS = %w[data_hash lookup_key data_dig hiera3_backend].freeze

      attr_accessor :name, :files

      # The run of a compiler, made when it is first asked for.
      def self.of(compiler)
        adapt(compiler) do |run|
          # The block is called for an adapter that is there already, too.
          next unless run.name.nil?

          run.name = SecureRandom.hex(16)
          directory = compiler.environment&.configuration&.path_to_env
          run.files = [Puppet[:hiera_config], directory && File.join(directory, 'hiera.yaml')].compact
        end
      end

      # The options of the Consul levels of a hiera.yaml, as they are written.
      def self.levels(file)
        config = Puppet::Util::Yaml.safe_load_file(file, [Symbol])
        return [] unless config.is_a?(Hash) && config['version'] == 5

        defaults = config['defaults'].is_a?(Hash) ? config['defaults'] : {}
        levels = Array(config['hierarchy']).select do |entry|
          entry.is_a?(Hash) && ((KINDS & entry.keys).empty? ? defaults : entry)['lookup_key'] == FUNCTION
        end
        levels.map { |entry| entry['options'] || defaults['options'] }.grep(Hash)
      end

      # The options of all Consul levels. The block returns those of a file, interpolated; it is called once
      # for each file.
      def with
        @with ||= files.select { |file| File.exist?(file) }.flat_map { |file| yield(file) }
      rescue StandardError => e
        Puppet.debug { "stacktira::consul: levels are read one by one: #{e.message}" }
        @with = []
      end
    end
  end
end
