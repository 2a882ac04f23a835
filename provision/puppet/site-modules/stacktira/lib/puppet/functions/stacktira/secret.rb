# frozen_string_literal: true

require 'fileutils'
require 'securerandom'

# Returns a secret of this node, made at the first call and kept in a file that only root can read.
#
# Secrets never enter the repository, Consul or a command line by this function.
Puppet::Functions.create_function(:'stacktira::secret') do
  # @param name What the secret is for.
  # @return [String] 40 letters and digits.
  dispatch :secret do
    param 'Pattern[/\A[a-z][a-z0-9_]*\z/]', :name
    return_type 'String'
  end

  def secret(name)
    directory = File.join(ENV['STACKTIRA_ROOT'].to_s, '/var/lib/stacktira/secrets')
    path = File.join(directory, name)
    FileUtils.mkdir_p(directory, mode: 0o700)
    make(path) unless File.exist?(path)
    value = File.read(path)
    raise Puppet::Error, "the secret in #{path} is not 40 letters and digits; remove the file to have a new one made" unless value.match?(/\A[A-Za-z0-9]{40}\z/)

    value
  end

  def make(path)
    temporary = "#{path}.#{Process.pid}.tmp"
    File.open(temporary, File::WRONLY | File::CREAT | File::TRUNC | File::NOFOLLOW, 0o600) do |file|
      file.write(SecureRandom.alphanumeric(40))
      file.fsync
    end
    # A link fails where another run was first; its secret then counts.
    File.link(temporary, path)
  rescue Errno::EEXIST
    nil
  ensure
    FileUtils.rm_f(temporary)
  end
end
