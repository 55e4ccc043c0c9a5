# Builds and runs the consumer twice: against an installed longspan and with longspan as a subdirectory.
# Variables: source, build (of longspan), work, generator, compiler, version.

function(run)
  execute_process(COMMAND ${ARGV} RESULT_VARIABLE failed OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(failed)
    string(REPLACE ";" " " command "${ARGV}")
    message(FATAL_ERROR "${command}\n${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

function(consume folder)
  run(${CMAKE_COMMAND} -S ${source}/tests/consumer -B ${work}/${folder} -G ${generator}
      -DCMAKE_CXX_COMPILER=${compiler} -DCMAKE_BUILD_TYPE=Debug ${ARGN})
  run(${CMAKE_COMMAND} --build ${work}/${folder})
  run(${work}/${folder}/consumer)
  if(NOT output STREQUAL "${version}\n")
    message(FATAL_ERROR "${folder}: the package says ${version}, the headers ${output}")
  endif()
endfunction()

file(REMOVE_RECURSE ${work})  # a removed header must not survive in an old prefix
run(${CMAKE_COMMAND} --install ${build} --prefix ${work}/prefix)
consume(installed -DCMAKE_PREFIX_PATH=${work}/prefix)
consume(subdirectory -DCONSUMER_LONGSPAN_SOURCE=${source})
