# frozen_string_literal: true

require 'io/wait'
require 'json'

module PuppetX
  # What Puppet's functions of this module share.
  module Stacktira
    # Consul, or the tool that asks it, did not give an answer. Never raised for "not there".
    class Unanswered < StandardError
      # The exit code that hiera-consul gives to the cause: 65, 69 or 77.
      attr_reader :code

      def initialize(message, code = 69)
        super(message)
        @code = code
      end
    end

    # One `hiera-consul serve` for the whole process: a JSON object a line in, one a line out.
    #
    # Every answer has a deadline, a minute unless STACKTIRA_ANSWER_SECONDS says otherwise or the request is
    # for something that is waited for; a process that misses it is killed and started anew at the next request. A process that has ended is started again and asked once more, since every request
    # only reads. What was asked in a parent is never answered to a forked child.
    class Coprocess
      LONGEST_ANSWER = 256 * 1024 * 1024
      # What a pipe holds.
      PIPE = 64 * 1024
      SETTINGS = %w[CONSUL_HTTP_ADDR CONSUL_HTTP_TOKEN CONSUL_HTTP_TOKEN_FILE CONSUL_HTTP_SSL CONSUL_HTTP_SSL_VERIFY
                    CONSUL_CACERT CONSUL_CAPATH CONSUL_CLIENT_CERT CONSUL_CLIENT_KEY CONSUL_TLS_SERVER_NAME
                    CONSUL_NAMESPACE CONSUL_PARTITION STACKTIRA_ROOT STACKTIRA_BIN].freeze

      @mutex = Mutex.new
      @instances = {}

      # Asks and returns the answer as a Hash; raises Unanswered.
      def self.ask(operation, fields, seconds = patience)
        @mutex.synchronize do
          settings = ENV.to_h.slice(*SETTINGS)
          @instances.reject! { |known, instance| known != settings && (instance.close || true) }
          (@instances[settings] ||= new).ask(operation, fields, seconds)
        end
      end

      def self.patience
        given = ENV['STACKTIRA_ANSWER_SECONDS'].to_s
        given.match?(/\A[1-9]\d{0,4}\z/) ? given.to_i : 60
      end

      # The tool: STACKTIRA_BIN names the directory of another installation.
      def self.binary
        own = ENV['STACKTIRA_BIN'].to_s
        return File.join(own, 'hiera-consul') unless own.empty?

        installed = '/opt/stacktira/bin/hiera-consul'
        File.executable?(installed) ? installed : 'hiera-consul'
      end

      def initialize
        @number = 0
      end

      def ask(operation, fields, seconds)
        @number += 1
        line = "#{JSON.generate(fields.merge('id' => @number, 'op' => operation))}\n"
        attempts = 0
        begin
          attempts += 1
          start unless running?
          answer = exchange(line, seconds)
        rescue EOFError, SystemCallError, IOError => e
          close
          retry if attempts < 2 && !e.is_a?(Errno::ENOENT) && !e.is_a?(Errno::EACCES)
          raise Unanswered, "#{self.class.binary} serve cannot be used: #{e.message}"
        end
        check(answer)
      end

      # Ends the process, if it is this one's.
      def close
        pid = @pid
        ours = @owner == Process.pid
        [@input, @output].compact.each { |io| io.close unless io.closed? }
        @input = @output = @pid = @owner = nil
        return unless ours && pid

        begin
          # With all that it may have started. It only reads, and one that hangs may not heed anything else.
          Process.kill(:KILL, -pid)
        rescue Errno::ESRCH
          nil
        end
      end

      private

      def running?
        !@pid.nil? && @owner == Process.pid
      end

      def start
        close
        their_input, @input = IO.pipe
        @output, their_output = IO.pipe
        @input.binmode
        @output.binmode
        @buffer = String.new(encoding: Encoding::BINARY)
        @chunk = String.new(capacity: PIPE)
        @pid = Process.spawn(self.class.binary, 'serve', in: their_input, out: their_output, pgroup: true)
        @owner = Process.pid
        # Collects the process when it ends, so that none is left as a zombie.
        Process.detach(@pid)
      ensure
        their_input&.close
        their_output&.close
      end

      def exchange(line, seconds)
        deadline = now + seconds
        write(line, deadline, seconds)
        until (at = @buffer.index("\n"))
          left = deadline - now
          late(seconds) if left <= 0 || !@output.wait_readable(left)
          chunk = @output.read_nonblock(PIPE, @chunk, exception: false)
          raise EOFError, 'it has ended' if chunk.nil?

          @buffer << chunk unless chunk == :wait_readable
          oversize if @buffer.bytesize > LONGEST_ANSWER
        end
        @buffer.slice!(0..at)
      end

      def write(line, deadline, seconds)
        rest = line.b
        until rest.empty?
          left = deadline - now
          late(seconds) if left <= 0 || !@input.wait_writable(left)
          written = @input.write_nonblock(rest, exception: false)
          rest = rest.byteslice(written..-1) unless written == :wait_writable
        end
      end

      def check(text)
        answer = JSON.parse(text.force_encoding(Encoding::UTF_8))
        unless answer.is_a?(Hash) && answer['id'] == @number
          close
          raise Unanswered, 'hiera-consul serve gave an answer to another question'
        end
        error = answer['error']
        raise Unanswered.new(error['message'].to_s, error['code']) if error

        answer
      rescue JSON::ParserError => e
        close
        raise Unanswered, "hiera-consul serve gave an answer that is not JSON: #{e.message[0, 200]}"
      end

      def late(seconds)
        close
        raise Unanswered, "hiera-consul serve gave no answer within #{seconds} s"
      end

      def oversize
        close
        raise Unanswered, "hiera-consul serve gave an answer longer than #{LONGEST_ANSWER} bytes"
      end

      def now
        Process.clock_gettime(Process::CLOCK_MONOTONIC)
      end
    end
  end
end
