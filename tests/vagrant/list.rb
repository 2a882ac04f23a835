# frozen_string_literal: true

# Prints what the Vagrantfile of a directory means for a provider, as JSON: what Vagrant itself understood.
# usage: ruby list.rb DIRECTORY virtualbox|libvirt
require "json"
require "vagrant"

directory, provider = ARGV
environment = Vagrant::Environment.new(cwd: directory)
machines = environment.vagrantfile.machine_names.to_h do |name|
  config = environment.vagrantfile.machine_config(name, provider.to_sym, environment.boxes, nil, false)[:config]
  settings = config.vm.get_provider_config(provider.to_sym)
  memory, cpus =
    if provider == "virtualbox"
      modified = settings.customizations.map(&:last).select { |words| words.first == "modifyvm" }
      %w[--memory --cpus].map { |flag| modified.find { |words| words.include?(flag) }&.last }
    else
      [settings.memory, settings.cpus]
    end
  [name, {
    box: config.vm.box, url: config.vm.box_url, checksum: config.vm.box_download_checksum,
    checksum_type: config.vm.box_download_checksum_type, hostname: config.vm.hostname,
    memory: Integer(memory), cpus: Integer(cpus),
    networks: config.vm.networks.filter_map { |type, options| options[:ip] if type == :private_network },
    folders: config.vm.synced_folders.values.reject { |folder| folder[:disabled] }
      .to_h { |folder| [folder[:guestpath], folder.slice(:hostpath, :type, :rsync__exclude)] },
    provisioners: config.vm.provisioners.map do |provisioner|
      { name: provisioner.name, type: provisioner.type, inline: (provisioner.config.inline if provisioner.type == :shell),
        source: (provisioner.config.source if provisioner.type == :file) }
    end
  }]
end
puts JSON.pretty_generate(machines)
