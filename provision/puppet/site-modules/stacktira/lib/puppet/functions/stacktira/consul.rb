# frozen_string_literal: true

require_relative '../../../puppet_x/stacktira/coprocess'
require_relative '../../../puppet_x/stacktira/run'

# A lookup_key function of Hiera 5: one prefix of Consul's key-value store is one level of the hierarchy.
#
# All levels of this function in a catalog's hierarchies are read at once when the first is asked, so all keys
# of a catalog see one state and a miss costs nothing. When Consul cannot be read, or the token may not, the
# compilation fails: a level is never taken for empty.
#
# @example
#   - name: "Consul: every node"
#     lookup_key: stacktira::consul
#     options: {prefix: "hiera/common/", format: auto}
#
# Options: `prefix`; `format` (`raw`, `json`, `yaml`, `auto`); `folders: true` (folders are hashes); `document` (the name of one key below the
# prefix that holds all others); `consistency` (`default`, `consistent`, `stale`);
# `services: true` for the computed keys of the catalog; `stale_if_error` (`2h`): while Consul is away, the level is what it
# was when it was last read, if that is not longer ago, and the run's log says so; `address`, `token_file`, `ca_file`, `client_cert`,
# `client_key`, `server_name`, `datacenter`. `leader__NAME` and `leader__NAME__address` answer the elected node.
Puppet::Functions.create_function(:'stacktira::consul') do
  # Puppet alone calls this, with a key, a Hash and a Puppet::LookupContext, once for each level that lacks a key: to check
  # these types takes three times as long as all the rest of a miss.
  dispatch :consul do
    param 'Any', :key
    param 'Any', :options
    param 'Any', :context
  end

  def consul(key, options, context)
    if options.key?('path') || options.key?('uri')
      raise Puppet::DataBinding::LookupError, 'stacktira::consul takes no path, glob or uri; give options: {prefix: ...}'
    end

    level = level(options, context)
    if level['values'].key?(key)
      context.interpolate(level['values'][key])
    elsif level['errors'].key?(key)
      raise Puppet::DataBinding::LookupError, level['errors'][key]
    elsif computed?(key, options)
      answer = (level['answers'][key] ||= ask('lookup', { 'options' => options, 'run' => run&.name, 'key' => key }))
      answer['found'] ? context.interpolate(answer['value']) : context.not_found
    else
      context.not_found
    end
  end

  # The context lives as long as one catalog is compiled, and so does what was read.
  def level(options, context)
    unless context.cache_has_key('level')
      with = run&.with { |file| context.interpolate(PuppetX::Stacktira::Run.levels(file)) }
      read = ask('snapshot', { 'options' => options, 'run' => run&.name, 'with' => with })
      unless read['values'].is_a?(Hash) && read['errors'].is_a?(Hash)
        raise Puppet::DataBinding::LookupError, 'stacktira::consul: hiera-consul serve gave an answer of another kind'
      end

      context.cache('level', read.merge('answers' => {}))
      # An outage belongs into the run's log: what is kept may be old.
      Array(read['warnings']).each { |warning| Puppet.warning("stacktira::consul: #{warning}") }
      context.explain do
        age = ", kept #{read['age']} s ago, since Consul is away" if read['age']
        "Consul: #{read['values'].size} keys below #{options['prefix']} at index #{read['index']}#{age}"
      end
    end
    context.cached_value('level')
  end

  # The lookups of this catalog; nil where there is none.
  def run
    scope = closure_scope
    PuppetX::Stacktira::Run.of(scope.compiler) if scope.respond_to?(:compiler)
  end

  # Consul's names of properties begin with a capital letter, those of parameters do not.
  def computed?(key, options)
    return false unless key.is_a?(String)

    key.start_with?('leader__') ||
      (options['services'] == true && (key == 'service_hash' || key.start_with?('service_hash__') || key.match?(/._[A-Z]/)))
  end

  def ask(operation, fields)
    PuppetX::Stacktira::Coprocess.ask(operation, fields)
  rescue PuppetX::Stacktira::Unanswered => e
    raise Puppet::DataBinding::LookupError, "stacktira::consul: #{e.message}"
  end
end
