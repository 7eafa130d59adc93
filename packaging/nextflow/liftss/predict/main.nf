process LIFTSS_PREDICT {
    tag "$meta.id"
    label 'process_medium'

    conda "${moduleDir}/environment.yml"
    container "lift_ss_hf:0.1.0"

    input:
    tuple val(meta), path(fasta)

    output:
    tuple val(meta), path("${prefix}/predictions.*"), emit: predictions
    tuple val("${task.process}"), val('lift_ss_hf'), eval("lift-ss --version | sed 's/.* //'"), emit: versions_liftss, topic: versions

    when:
    task.ext.when == null || task.ext.when

    script:
    def args = task.ext.args ?: '--format parquet'
    prefix = task.ext.prefix ?: "${meta.id}"
    """
    OMP_NUM_THREADS=$task.cpus lift-ss predict \\
        $fasta \\
        -o $prefix \\
        --quiet \\
        $args
    """

    stub:
    prefix = task.ext.prefix ?: "${meta.id}"
    """
    mkdir -p $prefix
    touch $prefix/predictions.parquet
    """
}
